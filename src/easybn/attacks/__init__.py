"""The attacks that evaluation uses, each batched over the points that are not broken yet."""
