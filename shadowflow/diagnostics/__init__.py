"""What a shadow says: the bias, its error, its order, its mean over shuffles."""
