// Light or dark: the system's, until the reader chooses.
import { effect, signal } from '@preact/signals'

const KEY = 'coalition.theme'
const ORDER = ['system', 'light', 'dark']
const kept = localStorage.getItem(KEY)

export const theme = signal(ORDER.includes(kept) ? kept : 'system')

export function nextTheme() {
  theme.value = ORDER[(ORDER.indexOf(theme.value) + 1) % ORDER.length]
  localStorage.setItem(KEY, theme.value)
}

effect(() => {
  document.documentElement.dataset.theme = theme.value
})
