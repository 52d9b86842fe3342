"""What users' files look like: images, masks, folders."""
