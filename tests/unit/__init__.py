"""Tests that start no process: seconds in all."""
