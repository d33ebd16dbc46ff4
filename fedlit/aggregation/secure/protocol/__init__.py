"""The protocol of Bonawitz et al. (2017), without network and torch."""
