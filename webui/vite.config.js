import { readFileSync } from 'node:fs'
import { defineConfig } from 'vite'

const { dependencies } = JSON.parse(readFileSync(new URL('package.json', import.meta.url)))

// The licences of what the bundle contains must travel with it.
const licences = {
  name: 'licences',
  generateBundle() {
    const texts = ['@preact/signals-core', ...Object.keys(dependencies)].sort().map((name) => {
      const text = readFileSync(new URL(`node_modules/${name}/LICENSE`, import.meta.url), 'utf8')
      return `${name}\n${'-'.repeat(name.length)}\n${text.trim()}\n`
    })
    this.emitFile({ type: 'asset', fileName: 'licences.txt', source: texts.join('\n\n') })
  },
}

export default defineConfig({
  base: '/',
  plugins: [licences],
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    assetsInlineLimit: 0, // the page's policy allows no data: addresses
    modulePreload: { polyfill: false },
    emptyOutDir: true,
  },
  // `npm run dev` shows the sources as they are edited, against a server that runs
  server: { proxy: { '/api': process.env.COALITION_SERVER || 'http://127.0.0.1:19211' } },
})
