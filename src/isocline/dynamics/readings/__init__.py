"""What is read of a trained model, one question a file; which of them apply depends on the model."""
