"""Measurements of `make bench`: this project beside other libraries doing the same job."""
