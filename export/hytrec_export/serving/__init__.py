"""What happens to one request inside Triton."""
