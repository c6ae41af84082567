"""`ofer reconstruct --ray`: archives of pictures, videos and bags to one Parquet dataset of faces."""
