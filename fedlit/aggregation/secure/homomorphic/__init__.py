"""Homomorphic encryption: the server adds ciphertexts, and keepers open the sum."""
