"""Pictures of paints: drawn once, kept, and looked up in batches."""
