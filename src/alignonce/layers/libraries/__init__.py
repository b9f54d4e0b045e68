"""What is special to other packages' layers; each module is imported only when such a layer turns up."""
