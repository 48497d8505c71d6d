"""chest X-ray models: trained, compared, explained and traced to what made them."""
