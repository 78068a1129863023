"""Play whole episodes of a world, also under shock and attack, and draw pictures of them."""
