"""Physics-informed neural operators on 2D Darcy flow with contrast ratio r."""
