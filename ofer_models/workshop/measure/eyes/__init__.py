"""The landmark network beside MediaPipe's, on renderings and on annotated photographs, and what it costs."""
