"""What is special to other packages' layers; each room is imported only when such a layer turns up."""
