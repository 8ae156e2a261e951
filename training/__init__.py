"""Makes bundles: data, objectives, loop, evaluation. May use every room of `ner_service` but `serving` and `cli`."""
