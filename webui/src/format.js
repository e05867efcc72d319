// Numbers and times as people read them. Money comes in integer micro-units, times in seconds since 1970.
const MICRO = 1_000_000
const FIGURE_SPACE = '\u2007'
const THIN = '\u202f'

export const count = (n) => (n ?? 0).toLocaleString('en')
// For an axis: 950, 1.2K, 34M.
const compactFormat = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 })
export const compact = (n) => compactFormat.format(n ?? 0)
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`

const formats = new Map()

function currencyFormat(currency, digits) {
  const key = `${currency}${digits}`
  if (!formats.has(key)) {
    const options = { style: 'currency', currency, minimumFractionDigits: digits, maximumFractionDigits: digits }
    formats.set(key, new Intl.NumberFormat('en', options))
  }
  return formats.get(key)
}

// How many decimals an amount needs: cents, more where these would say too little; `finest` is the smallest shown beside it.
export const digitsFor = (micro, finest = micro) => {
  const whole = micro % (MICRO / 100) === 0 && finest % (MICRO / 100) === 0
  return micro && !whole && (micro < 0.995 * MICRO || (finest && finest < 0.005 * MICRO)) ? 4 : 2
}

// Cents, but enough digits that a small amount is not shown as nothing.
export function money(micro, currency = 'USD', digits = digitsFor(micro)) {
  const amount = (micro ?? 0) / MICRO
  const least = 0.5 / 10 ** digits // what is less would be shown as nothing
  const format = currencyFormat(currency || 'USD', digits)
  return amount > 0 && amount < least ? `<${format.format(2 * least)}` : format.format(amount)
}

// The same for a column: padded, so that the decimal points stand below each other.
export function moneyCell(micro, currency) {
  if (!micro) return ''
  const text = money(micro, currency)
  return text.length - text.lastIndexOf('.') > 3 ? text : text + FIGURE_SPACE.repeat(2)
}

export function bytes(n) {
  if (!n) return '0'
  const step = Math.min(4, Math.floor(Math.log2(n) / 10))
  const value = n / 1024 ** step
  return `${value < 10 && step ? value.toFixed(1) : Math.round(value)}${THIN}${['B', 'KB', 'MB', 'GB', 'TB'][step]}`
}

// The two largest units: 8 s, 2 m 05 s, 3 h 10 m, 4 d 2 h.
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds))
  const two = (n) => String(n).padStart(2, '0')
  if (seconds < 9.95 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)}${THIN}s`
  if (s < 60) return `${s}${THIN}s`
  if (s < 3600) return `${Math.floor(s / 60)}${THIN}m ${two(s % 60)}${THIN}s`
  if (s < 86400) return `${Math.floor(s / 3600)}${THIN}h ${two(Math.floor((s % 3600) / 60))}${THIN}m`
  return `${Math.floor(s / 86400)}${THIN}d ${Math.floor((s % 86400) / 3600)}${THIN}h`
}

// One unit is enough for "how long ago"; under a minute in steps, so that a quiet page stays still.
export function rough(seconds) {
  const s = Math.abs(seconds)
  if (s < 10) return `${Math.floor(s)}${THIN}s`
  if (s < 60) return `${Math.floor(s / 5) * 5}${THIN}s`
  if (s < 3600) return `${Math.floor(s / 60)}${THIN}min`
  if (s < 2 * 86400) return `${Math.floor(s / 3600)}${THIN}h`
  return `${Math.floor(s / 86400)} days`
}

export function relative(at, now) {
  if (Math.abs(now - at) < 3) return 'just now'
  const text = rough(now - at)
  return at > now ? `in ${text}` : `${text} ago`
}

const exactFormat = new Intl.DateTimeFormat('sv', { dateStyle: 'short', timeStyle: 'medium' })
const clockFormat = new Intl.DateTimeFormat('sv', { timeStyle: 'medium' })

// 2031-05-04 13:07:09, in the reader's time zone.
export const exact = (at) => exactFormat.format(at * 1000)
export const clock = (milliseconds) => clockFormat.format(milliseconds)
export const percent = (share) => `${Math.floor(Math.min(1, Math.max(0, share)) * 100)}${THIN}%`
