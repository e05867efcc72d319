export const unlessAway = (call) => call()
