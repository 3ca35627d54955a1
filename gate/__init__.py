"""Registration gate: may this person register, and with what metadata?"""
