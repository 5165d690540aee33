"""How every process of Milepost serves HTTP."""
