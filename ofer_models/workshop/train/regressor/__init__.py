"""Training regressors: crops of people to heads, and students of other regressors."""
