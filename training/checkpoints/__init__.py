"""Foreign weights -> our models, a file a source format."""
