"""What a trained network does with easy, perturbed and clean images: measurements that are no scores."""
