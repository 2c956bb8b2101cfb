"""What heads do to the model, seen by changing them."""
