// Light or dark (the system's, until the reader chooses), dense or roomy; kept by the browser.
import { effect, signal } from '@preact/signals'

const ORDER = ['system', 'light', 'dark']

function kept(name, allowed) {
  const value = localStorage.getItem(`coalition.${name}`)
  const held = signal(allowed.includes(value) ? value : allowed[0])
  effect(() => {
    document.documentElement.dataset[name] = held.value
  })
  const set = (wanted) => {
    held.value = wanted
    localStorage.setItem(`coalition.${name}`, wanted)
  }
  return [held, set]
}

export const [theme, setTheme] = kept('theme', ORDER)
export const [density, setDensity] = kept('density', ['dense', 'roomy'])
export const nextTheme = () => setTheme(ORDER[(ORDER.indexOf(theme.value) + 1) % ORDER.length])
