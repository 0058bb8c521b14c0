"""Pictures of a training and an evaluation."""
