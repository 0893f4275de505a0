"""Folders of the node that seats see, such as data sets: whether they are there, and whether they answer."""
