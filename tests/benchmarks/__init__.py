"""What `make bench` measures: ours beside what others write for the same job."""
