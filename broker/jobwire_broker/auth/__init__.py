"""Who a caller is and what it may do: identities with scopes, the API keys, JWTs and own tokens that stand for them. Knows neither gRPC nor the store."""
