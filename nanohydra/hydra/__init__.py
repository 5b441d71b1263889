"""Teach it: material -> lesson -> receipt -> gate -> history; routing and consolidation."""
