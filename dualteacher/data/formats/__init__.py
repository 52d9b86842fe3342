"""File formats of users' data: images, masks, folder layouts, class lists."""
