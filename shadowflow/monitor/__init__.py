"""What a running training says about its implicit bias."""
