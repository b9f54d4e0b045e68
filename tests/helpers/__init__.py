"""What tests of several folders share: small models, made data, and references."""
