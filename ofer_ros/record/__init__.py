"""What the recorder keeps of a run: figures, a video, a sheet, a bag."""
