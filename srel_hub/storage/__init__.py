"""Files: atomic writes, safetensors written row by row, decoded images, the table of condensed images."""
