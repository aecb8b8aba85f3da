"""easybn inside the trainers people use; each module needs its package, an extra of the same name."""
