"""What a sink means for those who serve, quantise, evaluate and secure a model."""
