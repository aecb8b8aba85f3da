"""The census of easy examples."""
