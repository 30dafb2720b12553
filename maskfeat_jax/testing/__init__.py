"""What tests need inside the package."""
