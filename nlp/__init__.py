"""Language: models, objectives, tokenizers, decoding."""
