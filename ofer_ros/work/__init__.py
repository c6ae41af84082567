"""Between input and output: the mailbox, the worker thread, and what is counted and told about them."""
