"""Word lists for the generated catalogue, all our own: no maker's name or paint is among them."""

from __future__ import annotations

__all__ = ["BRANDS", "FAMILIES", "FAMILY_NOUNS", "MOODS", "RANGES"]

BRANDS = (
    "Alder & Finch", "Brackenfield", "Copperhythe", "Dunmarrow", "Emberwick", "Farrowgate", "Glasshollow",
    "Harrowmere", "Ivory Quay", "Juniper Lane", "Kestrel Yard", "Lanternworks", "Mosswright", "Nettlebank",
    "Oakrime", "Pale Harbour", "Quillstone", "Rookery Press", "Saltmarsh", "Thistledown", "Umberfold",
    "Vesper Mill", "Wrenhouse", "Yarrow & Sons",
)  # fmt: skip

#: A range of a brand, and the finishes it comes in.
RANGES = {
    "Core": ("matte", "satin"),
    "Airflow": ("matte", "satin", "gloss"),
    "Deep Wash": ("wash", "ink"),
    "Forge": ("metallic",),
    "Field & Fog": ("matte", "texture"),
    "One Coat": ("contrast",),
    "Ground": ("primer", "texture"),
    "Last Layer": ("varnish", "gloss"),
}

MOODS = (
    "Ancient", "Ashen", "Autumn", "Bitter", "Blessed", "Bold", "Bright", "Brittle", "Burnt", "Calm", "Clouded",
    "Cold", "Dawn", "Deep", "Distant", "Drowned", "Dusk", "Dusty", "Early", "Faded", "Feral", "First", "Frosted",
    "Gentle", "Ghostly", "Gilded", "Gloaming", "Hallowed", "Hidden", "Hollow", "Humble", "Idle", "Last", "Late",
    "Little", "Lost", "Lucky", "Mellow", "Midnight", "Misty", "Moonlit", "Muted", "Noble", "Old", "Pale", "Quiet",
    "Rain-washed", "Restless", "Rustic", "Sacred", "Shaded", "Shy", "Silent", "Sleeping", "Smoked", "Soft", "Solemn",
    "Stormy", "Sunken", "Tarnished", "Tender", "Twilight", "Velvet", "Wandering", "Warm", "Weathered", "Wild", "Winter",
)  # fmt: skip

#: Where each colour family lies for the eye: its hue in degrees, and its share of full colour.
FAMILIES = {
    "red": (25, 1.0), "orange": (55, 1.0), "brown": (60, 0.45), "yellow": (95, 1.0), "olive": (115, 0.6),
    "green": (145, 1.0), "teal": (190, 0.8), "blue": (250, 1.0), "violet": (295, 1.0), "pink": (350, 0.9),
    "flesh": (50, 0.35), "bone": (85, 0.2), "grey": (260, 0.04),
}  # fmt: skip

FAMILY_NOUNS = {
    "red": ("Ember", "Poppy", "Brick", "Garnet", "Rowan", "Cinnabar", "Ruby", "Wound", "Banner", "Fox"),
    "orange": ("Rust", "Marigold", "Lantern", "Amber", "Apricot", "Kiln", "Pumpkin", "Copper", "Carrot", "Torch"),
    "brown": ("Bark", "Saddle", "Peat", "Walnut", "Hide", "Chestnut", "Burrow", "Loam", "Otter", "Cask"),
    "yellow": ("Straw", "Canary", "Honey", "Sulphur", "Buttercup", "Brass", "Wheat", "Lemon", "Sunray", "Gorse"),
    "olive": ("Moss", "Lichen", "Khaki", "Bracken", "Fatigue", "Reed", "Olive", "Bog", "Sage", "Canvas"),
    "green": ("Fern", "Ivy", "Meadow", "Emerald", "Pine", "Clover", "Jade", "Goblin", "Thicket", "Laurel"),
    "teal": ("Lagoon", "Kingfisher", "Verdigris", "Tide", "Turquoise", "Duck Egg", "Mallard", "Glacier", "Reef", "Pool"),
    "blue": ("Cobalt", "Harbour", "Sapphire", "Cornflower", "Iris", "Slate", "Sky", "Denim", "Fjord", "Ink"),
    "violet": ("Heather", "Plum", "Amethyst", "Nightshade", "Lilac", "Damson", "Mauve", "Violet", "Mulberry", "Omen"),
    "pink": ("Rose", "Blush", "Peony", "Coral", "Salmon", "Foxglove", "Petal", "Shrimp", "Fuchsia", "Dawnlight"),
    "flesh": ("Skin", "Clay", "Sand", "Terracotta", "Dune", "Cheek", "Fawn", "Biscuit", "Parchment", "Leather"),
    "bone": ("Bone", "Ivory", "Chalk", "Linen", "Shell", "Vellum", "Tusk", "Cream", "Pebble", "Oat"),
    "grey": ("Steel", "Ash", "Stone", "Raven", "Iron", "Fog", "Granite", "Soot", "Pewter", "Wolf"),
}  # fmt: skip
