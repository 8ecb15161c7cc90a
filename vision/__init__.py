"""Images: models, objectives, transforms, pictures."""
