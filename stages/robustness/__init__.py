"""How well students understand recordings that were spoilt."""
