"""What a raw value becomes, as pure functions: preprocessing and serving share them."""
