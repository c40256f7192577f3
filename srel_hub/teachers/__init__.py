"""Networks: train them from scratch, adopt pretrained ones, save and load them, and estimate what they cost."""
