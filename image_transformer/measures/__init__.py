"""Measures of the quality, diversity and novelty of images, sizes of files, and the tables of `report`."""
