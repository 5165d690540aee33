"""HTTP as every process of Milepost serves it: limits, bodies, problems."""
