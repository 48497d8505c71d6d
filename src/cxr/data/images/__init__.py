"""Read users' image files as grey images, with the assumptions made for each file."""
