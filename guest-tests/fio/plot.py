"""stub"""
def drawn(known): return "<svg/>"
