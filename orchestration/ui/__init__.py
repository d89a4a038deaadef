"""What stands around Dagster's UI: the door in front, and the pictures of product-days and tests beside.

In: requests, and the lake. Out: admitted requests, and pictures.
"""
