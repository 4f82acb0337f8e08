"""Blocks that more than one network is made of; each says where it comes from."""
